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
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/garrison-mesh/garrison/internal/mesh"
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

// Config is what a handler can be told. Its zero value is the default limits, with
// nobody watching.
type Config struct {
	Limits Limits

	// Observe is told how long a request was in each phase that it entered: waiting
	// (for room, then for its turn), reading, decoding, deciding, encoding.
	Observe func(phase string, took time.Duration)

	// Refused is told the HTTP status of each request that is answered without a
	// review, and so without admit having counted it: 400 not readable, 405 and 415
	// not a review, 408 and 503 too late, 413 too large.
	Refused func(code int)
}

// Handler answers admission reviews by what admit says. The context that admit
// gets ends when the API server no longer waits: it says how long that is in the
// query.
func Handler(admit func(context.Context, *Request) Response, c Config) http.Handler {
	return &handler{
		admit: admit, observe: c.Observe, refused: c.Refused,
		body: cmp.Or(c.Limits.Body, defaultBody), timeout: cmp.Or(c.Limits.Timeout, defaultTimeout),
		slots: make(chan struct{}, cmp.Or(c.Limits.Concurrent, defaultConcurrent)),
		turns: make(chan struct{}, cmp.Or(c.Limits.Deciding, defaultDeciding)),
	}
}

type handler struct {
	admit   func(context.Context, *Request) Response
	observe func(string, time.Duration) // may be nil, as may refused
	refused func(int)
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
		if h.refused != nil {
			h.refused(p.code)
		}
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
	watch := stopwatch{began: time.Now()}
	defer watch.report(h.observe)

	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	case <-ctx.Done():
		watch.end(waiting)
		return nil, h.busy(timeout)
	}
	watch.end(waiting)
	body, p := h.read(w, r)
	watch.end(reading)
	if p != nil {
		return nil, p
	}
	select {
	case h.turns <- struct{}{}:
		defer func() { <-h.turns }()
	case <-ctx.Done():
		watch.end(waiting)
		return nil, h.busy(timeout)
	}
	watch.end(waiting)
	asked, err := parse(body)
	watch.end(decoding)
	if err != nil {
		return nil, &problem{http.StatusBadRequest, fmt.Errorf("AdmissionReview: %w", err)}
	}
	asked.Request.Path = strings.TrimPrefix(r.URL.Path, mesh.InjectPath)
	says := h.admit(ctx, asked.Request)
	watch.end(deciding)
	answer, err := json.Marshal(asked.answer(says))
	watch.end(encoding)
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
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, &problem{http.StatusRequestTimeout, fmt.Errorf("body: not all there after %s", bodyTimeout)}
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, &problem{http.StatusBadRequest, errors.New("body: ends early")}
	case err != nil:
		return nil, &problem{http.StatusBadRequest, fmt.Errorf("body: %w", err)}
	case body.Len() == 0:
		return nil, &problem{http.StatusBadRequest, errors.New("body: empty")}
	}
	return body.Bytes(), nil
}
