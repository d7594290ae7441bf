package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"

	admissionv1 "k8s.io/api/admission/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// How many connections the API server is played with, at most times and in a crowd.
const (
	webhookClients = 8
	crowdClients   = 32
)

// webhook plays the API server to one webhook: HTTP/1.1 with keep-alive, as the API
// server speaks to webhooks, over TLS 1.3.
type webhook struct {
	client  *http.Client
	url     string
	reviews []review
	sent    atomic.Int64
	buffers []struct{ request, answer bytes.Buffer } // one for each client
}

func newWebhook(s *server, mix []review, clients int) *webhook {
	return &webhook{
		url:     "https://" + s.addr + mesh.InjectPath + "?timeout=10s",
		reviews: mix,
		buffers: make([]struct{ request, answer bytes.Buffer }, clients),
		client: &http.Client{Transport: &http.Transport{
			TLSClientConfig:     s.trust.Clone(), // with one of its own, net/http keeps to HTTP/1.1
			MaxConnsPerHost:     clients,
			MaxIdleConnsPerHost: clients,
		}},
	}
}

// webhooks plays the API server to several servers. done closes the connections.
func webhooks(servers []*server, mix []review, clients int) (all []contender, done func()) {
	var opened []*webhook
	for _, s := range servers {
		w := newWebhook(s, mix, clients)
		opened = append(opened, w)
		all = append(all, contender{s, w.call})
	}
	return all, func() {
		for _, w := range opened {
			w.client.CloseIdleConnections()
		}
	}
}

// call sends the pods of the mix in turn. It is a [call].
func (w *webhook) call(ctx context.Context, client, n int) error {
	b := &w.buffers[client]
	uid := w.reviews[(client+n)%len(w.reviews)].body(&b.request, client, int(w.sent.Add(1)))
	if err := w.post(ctx, &b.request, &b.answer); err != nil {
		return err
	}
	if !bytes.Contains(b.answer.Bytes(), []byte(uid)) || !bytes.Contains(b.answer.Bytes(), []byte(`"patch":`)) {
		return fmt.Errorf("not an answer to %s: %.300s", uid, b.answer.Bytes())
	}
	return nil
}

func (w *webhook) post(ctx context.Context, request, answer *bytes.Buffer) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, request)
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, */*")
	r.Header.Set("User-Agent", "kube-apiserver-admission")
	resp, err := w.client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer.Reset()
	if _, err := io.Copy(answer, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || resp.ProtoMajor != 1 || resp.TLS.Version != tls.VersionTLS13 {
		return fmt.Errorf("%s over %s and %s: %.300s", resp.Status, resp.Proto, tls.VersionName(resp.TLS.Version), answer.Bytes())
	}
	return nil
}

// patch asks about one pod and returns the patch, having looked at the whole answer.
func (w *webhook) patch(ctx context.Context, r review) ([]byte, error) {
	b := &w.buffers[0]
	r.body(&b.request, 0, int(w.sent.Add(1)))
	if err := w.post(ctx, &b.request, &b.answer); err != nil {
		return nil, err
	}
	return readPatch(b.answer.Bytes())
}

func readPatch(answer []byte) ([]byte, error) {
	var review admissionv1.AdmissionReview
	if err := json.Unmarshal(answer, &review); err != nil {
		return nil, err
	}
	if review.Response == nil || !review.Response.Allowed {
		return nil, fmt.Errorf("pod not allowed: %.300s", answer)
	}
	var operations []json.RawMessage
	if err := json.Unmarshal(review.Response.Patch, &operations); err != nil {
		return nil, fmt.Errorf("patch: %w", err)
	}
	if len(operations) == 0 {
		return nil, errors.New("patch: empty")
	}
	return review.Response.Patch, nil
}
