// Package park keeps connections of a server waiting without a goroutine each.
//
// A handler that has nothing to answer yet takes its connection from the server
// (Hijack, or Keep when it was parked before), wraps it as a Conn and parks it
// with a Guest: what waits for the answer. From then on the connection costs a few hundred bytes. It is in one
// epoll set, which tells when its client leaves, and on one timing wheel, which
// tells when the wait is over. When the Guest has an answer, a worker writes it
// straight to the socket. The connection stays parked until its next request
// comes, and is then given back to a server through a Home, a net.Listener that
// the server accepts from.
//
// The life of a Conn:
//
//	serving ──Park──► waiting ──Answer──► writing ──► idle ──next request──► serving
//
// A Guest is all that this package knows of a request, and bytes are all that it
// knows of an answer: nothing here is about HTTP.
//
// Concurrency: every method may be called at any time from any goroutine, but
// for Park and Answer, of which there is one at a time by construction: the
// server that has the connection parks it, and whoever got hold of the guest's
// end answers. Nothing that is called from here may block: Guest methods are
// called on the goroutine that serves all connections.
//
// Locks, in the order in which they are taken: Conn.mu, then one of Lot.mu,
// wheel.mu, Home.mu. None of them is held while a Guest is called.
package park
