package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"sync"
)

// couch is the part of CouchDB 2.3 that the tutorial and its demo application
// use: databases and documents, without views, conflicts or accounts.
type couch struct {
	mu        sync.Mutex
	databases map[string]map[string]document
}

type document map[string]any

func newCouch() http.Handler {
	c := &couch{databases: map[string]map[string]document{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, document{"couchdb": "Welcome", "version": "2.3.0", "features": []string{}, "vendor": document{"name": "garrison stand-in"}})
	})
	mux.HandleFunc("GET /_up", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, document{"status": "ok"}) })
	mux.HandleFunc("POST /_cluster_setup", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusCreated, document{"ok": true}) })
	mux.HandleFunc("GET /_all_dbs", c.list)
	mux.HandleFunc("GET /{db}", c.inDatabase(func(w http.ResponseWriter, r *http.Request, docs map[string]document) {
		answer(w, http.StatusOK, document{"db_name": r.PathValue("db"), "doc_count": len(docs)})
	}))
	mux.HandleFunc("PUT /{db}", c.create)
	mux.HandleFunc("DELETE /{db}", c.inDatabase(func(w http.ResponseWriter, r *http.Request, _ map[string]document) {
		delete(c.databases, r.PathValue("db"))
		answer(w, http.StatusOK, document{"ok": true})
	}))
	mux.HandleFunc("POST /{db}", c.inDatabase(store))
	mux.HandleFunc("PUT /{db}/{id}", c.inDatabase(store))
	mux.HandleFunc("GET /{db}/{id}", c.inDatabase(func(w http.ResponseWriter, r *http.Request, docs map[string]document) {
		doc, ok := docs[r.PathValue("id")]
		if !ok {
			refuse(w, http.StatusNotFound, "not_found", "missing")
			return
		}
		answer(w, http.StatusOK, doc)
	}))
	return mux
}

func (c *couch) list(w http.ResponseWriter, _ *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	answer(w, http.StatusOK, slices.Sorted(maps.Keys(c.databases)))
}

func (c *couch) create(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	name := r.PathValue("db")
	if _, ok := c.databases[name]; ok {
		refuse(w, http.StatusPreconditionFailed, "file_exists", "The database could not be created, the file already exists.")
		return
	}
	c.databases[name] = map[string]document{}
	answer(w, http.StatusCreated, document{"ok": true})
}

// inDatabase holds the lock around an answer that needs the database of the
// path.
func (c *couch) inDatabase(do func(http.ResponseWriter, *http.Request, map[string]document)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		defer c.mu.Unlock()
		docs, ok := c.databases[r.PathValue("db")]
		if !ok {
			refuse(w, http.StatusNotFound, "not_found", "Database does not exist.")
			return
		}
		do(w, r, docs)
	}
}

// store keeps the document of the body under the id of the path, or its own.
func store(w http.ResponseWriter, r *http.Request, docs map[string]document) {
	var doc document
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&doc); err != nil || doc == nil {
		refuse(w, http.StatusBadRequest, "bad_request", "invalid UTF-8 JSON")
		return
	}
	body, err := json.Marshal(doc)
	if err != nil {
		refuse(w, http.StatusBadRequest, "bad_request", "invalid UTF-8 JSON")
		return
	}
	sum := sha256.Sum256(body)
	id := r.PathValue("id")
	if own, ok := doc["_id"].(string); id == "" && ok {
		id = own
	}
	if id == "" {
		id = hex.EncodeToString(sum[16:])
	}
	rev := "1-" + hex.EncodeToString(sum[:16])
	if old, ok := docs[id]; ok && doc["_rev"] != old["_rev"] {
		refuse(w, http.StatusConflict, "conflict", "Document update conflict.")
		return
	}
	doc["_id"], doc["_rev"] = id, rev
	docs[id] = doc
	answer(w, http.StatusCreated, document{"ok": true, "id": id, "rev": rev})
}

func refuse(w http.ResponseWriter, status int, name, reason string) {
	answer(w, status, document{"error": name, "reason": reason})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client went away: nobody left to tell
}
