// Package store keeps fields and their messages in memory and wakes whoever
// watches them. It knows no HTTP and no Caddy.
//
// A field has a value, which is its latest message, and the recent messages
// that led to it. Every message of a store has a position, one counter for all
// fields, so that one cursor is enough for a client of many fields.
//
// # Use
//
//	s := store.New(store.DefaultLimits())
//	s.Publish([]store.Publication{{Field: "id", Data: []byte("123")}})
//
//	q := store.Query{Fields: []string{"id"}, Since: store.SinceCursor(c)}
//	watch, result, err := s.Watch(q, w) // w.Wake(result) is called once, later,
//	                                    // unless the result was ready at once
//	result, ended := watch.End()        // after a timeout, or when the client left
//
// # What holds under concurrency
//
// Store.mu guards everything, fields and watches included, and nothing is called
// with it held: it is the only lock here. A position is therefore never visible
// before all lower ones, a batch is visible whole or not at all, and a result is
// of one moment over all the fields it covers.
//
// Publish does not wait for watchers. It takes the watchers of its fields off
// in one step, whatever their number, and another goroutine finds out what each
// of them is to be given, a few at a time under the lock, and calls Wake
// without it. Messages are immutable once published.
//
// # What bounds it
//
// Limits bounds the fields, their messages and their bytes. Messages go before
// values, the oldest first; then the fields that were neither published nor
// watched for longest; when only watched or newer ones are left, Publish
// returns ErrFull and nothing was published. Whatever goes is told as a gap to
// the cursors that would have been given it. A field that nobody has published
// exists only while it is watched, and counts apart.
package store
