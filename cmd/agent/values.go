package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// ownerID is a flag's value: the number of a user or group.
type ownerID uint32

func (o *ownerID) String() string { return strconv.FormatUint(uint64(*o), 10) }

func (o *ownerID) Set(text string) error {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return errors.New("not the number of a user or group")
	}
	*o = ownerID(n)
	return nil
}

// port is a flag's value from 1 to 65535.
type port uint16

func (p *port) String() string { return strconv.Itoa(int(*p)) }

func (p *port) Set(text string) error {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return errors.New("not a port")
	}
	*p = port(n)
	return nil
}

// list is a flag's comma separated values, which replace the default; empty: none.
type list[T any] struct {
	values []T
	parse  func(string) (T, error)
}

func (l *list[T]) String() string {
	words := make([]string, len(l.values))
	for i, v := range l.values {
		words[i] = fmt.Sprint(v)
	}
	return strings.Join(words, ",")
}

func (l *list[T]) Set(text string) error {
	var values []T
	if text != "" {
		for word := range strings.SplitSeq(text, ",") {
			v, err := l.parse(word)
			if err != nil {
				return fmt.Errorf("%q: %w", word, err)
			}
			values = append(values, v)
		}
	}
	l.values = values
	return nil
}

// selection is a flag's list, or * for everything, which is the default.
type selection[T any] struct {
	list[T]
	limited bool
}

func (s *selection[T]) String() string {
	if !s.limited {
		return "*"
	}
	return s.list.String()
}

func (s *selection[T]) Set(text string) error {
	s.limited = text != "*"
	if !s.limited {
		text = ""
	}
	return s.list.Set(text)
}

func parsePort(text string) (uint16, error) {
	var p port
	err := p.Set(text)
	return uint16(p), err
}

func parseRange(text string) (netip.Prefix, error) {
	r, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, errors.New("not a range of addresses such as 10.0.0.0/8")
	}
	return r, nil
}
