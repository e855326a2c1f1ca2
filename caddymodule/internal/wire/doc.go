// Package wire holds the words that Comet speaks with its clients: it reads what
// publishers and held requests ask for, and writes what they are told. It knows
// no connection and no configuration; what a route allows is given to it.
//
// Whatever it reads comes from a stranger. A reader returns an *Error with the
// answer for the client, which says what was wrong and what to do.
package wire
