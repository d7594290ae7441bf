package admission

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"time"
)

// Limits bound what one server takes at a time. Zero values mean the defaults
// given.
type Limits struct {
	Body       int64         // bytes of one review; 3 MiB, which is what the API server takes from its own clients and twice what etcd stores
	Concurrent int           // reviews held in memory at a time; 64, so that bodies fit 192 MiB. Others wait
	Deciding   int           // of these, decided on at a time; 4, since one of 3 MiB may take 75 MiB more. Others wait
	Timeout    time.Duration // where the request names none; 10 s, as in the API server
}

const (
	defaultBody       = 3 << 20
	defaultConcurrent = 64
	defaultDeciding   = 4
	defaultTimeout    = 10 * time.Second
	bodyTimeout       = 5 * time.Second // a client that only pretends to send must not keep others out
)

// Handler answers admission reviews by what admit says. The context that admit
// gets ends when the API server no longer waits: it says how long that is in the
// query.
func Handler(admit func(context.Context, *Request) Response, l Limits) http.Handler {
	h := &handler{admit: admit, body: cmp.Or(l.Body, defaultBody), timeout: cmp.Or(l.Timeout, defaultTimeout)}
	h.slots = make(chan struct{}, cmp.Or(l.Concurrent, defaultConcurrent))
	h.turns = make(chan struct{}, cmp.Or(l.Deciding, defaultDeciding))
	return h
}

type handler struct {
	admit   func(context.Context, *Request) Response
	body    int64
	timeout time.Duration
	slots   chan struct{} // one is held from before the body is read to the answer
	turns   chan struct{} // one is held besides from the whole body on
}

// problem is an error with the status code that tells it to the API server.
type problem struct {
	code int
	err  error
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer, p := h.answer(w, r)
	if p != nil {
		if p.code == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", http.MethodPost)
		}
		http.Error(w, p.err.Error(), p.code)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	_, _ = w.Write(answer) // the API server has gone; it will say so itself
}

func (h *handler) answer(w http.ResponseWriter, r *http.Request) ([]byte, *problem) {
	if r.Method != http.MethodPost {
		return nil, &problem{http.StatusMethodNotAllowed, fmt.Errorf("method %s: want POST", r.Method)}
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return nil, &problem{http.StatusUnsupportedMediaType, fmt.Errorf("Content-Type %.64q: want application/json", r.Header.Get("Content-Type"))}
	}
	timeout := h.timeout
	if asked := r.URL.Query().Get("timeout"); asked != "" {
		d, err := time.ParseDuration(asked)
		if err != nil || d <= 0 {
			return nil, &problem{http.StatusBadRequest, fmt.Errorf("query timeout %.64q: want a duration such as 10s", asked)}
		}
		timeout = min(timeout, d)
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()

	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	case <-ctx.Done():
		return nil, h.busy(timeout)
	}
	body, p := h.read(w, r)
	if p != nil {
		return nil, p
	}
	select {
	case h.turns <- struct{}{}:
		defer func() { <-h.turns }()
	case <-ctx.Done():
		return nil, h.busy(timeout)
	}
	request, err := parse(body)
	if err != nil {
		return nil, &problem{http.StatusBadRequest, fmt.Errorf("AdmissionReview: %w", err)}
	}
	answer, err := json.Marshal(h.admit(ctx, request).review(request.UID))
	if err != nil {
		return nil, &problem{http.StatusInternalServerError, fmt.Errorf("answer: %w", err)}
	}
	return answer, nil
}

func (h *handler) busy(waited time.Duration) *problem {
	return &problem{http.StatusServiceUnavailable, fmt.Errorf("busy: %d reviews under way, waited %s", len(h.slots), waited)}
}

// read takes the whole body, in one allocation where its length is announced.
func (h *handler) read(w http.ResponseWriter, r *http.Request) ([]byte, *problem) {
	tooLarge := &problem{http.StatusRequestEntityTooLarge, fmt.Errorf("body: more than %d bytes, the limit of this webhook", h.body)}
	if r.ContentLength > h.body {
		return nil, tooLarge
	}
	// Not every ResponseWriter can do this; those of net/http can.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
	var body bytes.Buffer
	body.Grow(int(max(r.ContentLength, 0)) + bytes.MinRead) // so much spare that reading to the end needs no growth
	_, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, h.body))
	var over *http.MaxBytesError
	switch {
	case errors.As(err, &over):
		return nil, tooLarge
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, &problem{http.StatusBadRequest, errors.New("body: ends early")}
	case err != nil:
		return nil, &problem{http.StatusBadRequest, fmt.Errorf("body: %w", err)}
	case body.Len() == 0:
		return nil, &problem{http.StatusBadRequest, errors.New("body: empty")}
	}
	return body.Bytes(), nil
}
