package ca

import (
	"bytes"
	"encoding/pem"
	"slices"
	"testing"
)

// spoil writes a file by a recipe of steps, four bytes each, that add a piece or damage
// what is there. Fuzzers get behind the parsers of PEM and DER by it, and their inputs stay
// so small that they do not spend their time on making them smaller.
func spoil(recipe []byte, pieces [][]byte) []byte {
	var text []byte
	for ; len(recipe) >= 4 && len(text) < 16<<10; recipe = recipe[4:] {
		at, value := int(recipe[1])<<8|int(recipe[2]), recipe[3]
		switch recipe[0] {
		case 0:
			text = append(text, pieces[int(value)%len(pieces)]...)
		case 1:
			text = append(text, value)
		case 2:
			text = text[:min(at, len(text))]
		case 3:
			text = text[min(at, len(text)):]
		case 4:
			text = setByte(text, at, value)
		case 5:
			text = inLastBlock(text, func(der []byte) []byte { return setByte(der, at, value) })
		case 6:
			text = inLastBlock(text, func(der []byte) []byte { return slices.Insert(der, min(at, len(der)), value) })
		default:
			text = inLastBlock(text, func(der []byte) []byte {
				return slices.Delete(der, min(at, len(der)), min(at+int(value), len(der)))
			})
		}
	}
	return text
}

// pick is the recipe of a file that holds these pieces.
func pick(pieces ...byte) (recipe []byte) {
	for _, n := range pieces {
		recipe = append(recipe, 0, 0, 0, n)
	}
	return recipe
}

func setByte(b []byte, at int, value byte) []byte {
	if at < len(b) {
		b[at] = value
	}
	return b
}

// inLastBlock changes what the last PEM block holds, if there is one.
func inLastBlock(text []byte, change func([]byte) []byte) []byte {
	begin := max(bytes.LastIndex(text, []byte("-----BEGIN ")), 0)
	block, rest := pem.Decode(text[begin:])
	if block == nil {
		return text
	}
	block.Bytes = change(block.Bytes)
	return slices.Concat(text[:begin], pem.EncodeToMemory(block), rest)
}

func TestSpoil(t *testing.T) {
	one, two := []byte(inPEM("ONE", []byte{1, 2})), []byte(inPEM("TWO", []byte{3, 4}))
	for _, c := range []struct{ recipe, want []byte }{
		{nil, nil},
		{pick(1, 0), slices.Concat(two, one)},
		{append(pick(0), 1, 0, 0, 'x'), append(bytes.Clone(one), 'x')},
		{append(pick(0), 2, 0, 4, 0), one[:4]},
		{append(pick(0), 3, 0, 4, 0), one[4:]},
		{append(pick(0), 4, 0, 2, 'x'), append([]byte("--x"), one[3:]...)},
		{append(pick(0, 1), 5, 0, 1, 9), append(bytes.Clone(one), inPEM("TWO", []byte{3, 9})...)},
		{append(pick(0), 6, 0, 1, 9), []byte(inPEM("ONE", []byte{1, 9, 2}))},
		{append(pick(0), 7, 0, 0, 1), []byte(inPEM("ONE", []byte{2}))},
		{[]byte{1, 0, 0, 'x', 5, 0, 0, 0, 4, 1, 1, 1}, []byte("x")},
	} {
		if got := spoil(c.recipe, [][]byte{one, two}); !bytes.Equal(got, c.want) {
			t.Errorf("%v: %q, want %q", c.recipe, got, c.want)
		}
	}
}
