package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// handled is a webhook's handler that is called as net/http would call it, with no
// network and next to nothing of its own: the body of a review goes in, an answer
// comes out.
type handled struct {
	handler http.Handler
	review  []byte
	request *http.Request
	body    reusable
	answer  answer
}

func newHandled(h http.Handler, r review) (*handled, error) {
	var body bytes.Buffer
	r.body(&body, 0, 0)
	request, err := http.NewRequestWithContext(context.Background(), http.MethodPost, mesh.InjectPath+"?timeout=10s", nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.ContentLength = int64(body.Len())
	return &handled{handler: h, review: body.Bytes(), request: request, answer: answer{header: http.Header{}}}, nil
}

// call returns the answer, which holds until the next call.
func (h *handled) call() ([]byte, error) {
	h.body.Reset(h.review)
	h.request.Body = &h.body
	h.answer.reset()
	h.handler.ServeHTTP(&h.answer, h.request)
	if h.answer.status != http.StatusOK {
		return nil, fmt.Errorf("status %d: %.300s", h.answer.status, h.answer.body.Bytes())
	}
	return h.answer.body.Bytes(), nil
}

// expect returns a function that calls and wants an answer with a patch, or without.
func (h *handled) expect(patch bool) func() error {
	return func() error {
		answer, err := h.call()
		if err == nil && bytes.Contains(answer, []byte(`"patch":`)) != patch {
			err = fmt.Errorf("want patch %t: %.300s", patch, answer)
		}
		return err
	}
}

// reusable is a request's body.
type reusable struct{ bytes.Reader }

func (*reusable) Close() error { return nil }

// answer is a ResponseWriter that keeps what is written.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (a *answer) reset() {
	clear(a.header)
	a.status = http.StatusOK
	a.body.Reset()
}

func (a *answer) Header() http.Header               { return a.header }
func (a *answer) WriteHeader(status int)            { a.status = status }
func (a *answer) Write(p []byte) (int, error)       { return a.body.Write(p) }
func (a *answer) SetReadDeadline(t time.Time) error { return nil } // as net/http's can
