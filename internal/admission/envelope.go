package admission

import "bytes"

// split cuts the object out of a review and returns what is left, with null in its
// place: the object is nearly all of a review, and whoever decides on it reads it
// anyway, so it need not be read here twice besides. It takes only what an API server
// writes. Anything else, such as a member that is there twice or spelled with escapes,
// is not ok, and the review is to be read whole.
//
// Of a valid review both parts are valid, and all of it is in them. Of one that is not,
// whoever reads the parts finds out.
func split(body []byte) (envelope, object []byte, ok bool) {
	request, _, ok := member(body, 0, "request")
	if !ok {
		return nil, nil, false
	}
	from, to, ok := member(body, request, "object")
	if !ok {
		return nil, nil, false
	}
	const null = "null"
	envelope = make([]byte, 0, len(body)-(to-from)+len(null))
	envelope = append(append(append(envelope, body[:from]...), null...), body[to:]...)
	return envelope, body[from:to], true
}

// member returns where the value of a member is in the object that begins at a place.
// It must be there once.
func member(doc []byte, at int, name string) (from, to int, ok bool) {
	at = space(doc, at)
	if at >= len(doc) || doc[at] != '{' {
		return 0, 0, false
	}
	for {
		key := space(doc, at+1)
		end := value(doc, key)
		if end < 0 || doc[key] != '"' || bytes.IndexByte(doc[key:end], '\\') >= 0 {
			return 0, 0, false
		}
		colon := space(doc, end)
		if colon >= len(doc) || doc[colon] != ':' {
			return 0, 0, false
		}
		begin := space(doc, colon+1)
		over := value(doc, begin)
		if over < 0 {
			return 0, 0, false
		}
		if string(doc[key+1:end-1]) == name {
			if to > 0 {
				return 0, 0, false
			}
			from, to = begin, over
		}
		at = space(doc, over)
		switch {
		case at < len(doc) && doc[at] == ',':
		case at < len(doc) && doc[at] == '}':
			return from, to, to > 0
		default:
			return 0, 0, false
		}
	}
}

// space returns the next place that holds no white space.
func space(doc []byte, at int) int {
	for at < len(doc) && (doc[at] == ' ' || doc[at] == '\n' || doc[at] == '\t' || doc[at] == '\r') {
		at++
	}
	return at
}

// value returns the end of the value that begins at a place, or -1 where it has none.
func value(doc []byte, at int) int {
	depth := 0
	for at < len(doc) {
		switch doc[at] {
		case '"':
			if at = text(doc, at); at < 0 || depth == 0 {
				return at
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth < 0 {
				return -1
			}
			if depth == 0 {
				return at + 1
			}
		default:
			if depth == 0 {
				return word(doc, at)
			}
		}
		at++
	}
	return -1
}

// text returns the end of the string that begins at a place, or -1 where it has none.
func text(doc []byte, at int) int {
	for at++; ; at++ {
		n := bytes.IndexByte(doc[at:], '"')
		if n < 0 {
			return -1
		}
		at += n
		escapes := 0
		for doc[at-1-escapes] == '\\' {
			escapes++
		}
		if escapes%2 == 0 {
			return at + 1
		}
	}
}

// word returns the end of the number or name that begins at a place, or -1 where there
// is none.
func word(doc []byte, at int) int {
	n := bytes.IndexAny(doc[at:], ",:]} \n\t\r")
	if n <= 0 {
		return -1
	}
	return at + n
}
