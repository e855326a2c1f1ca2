package main

import (
	"cmp"
	"strconv"
)

// userAgent is sent with every request.
const userAgent = "comet-bench"

// request is what a client sends. The Host is that of the target.
type request struct {
	method string
	path   string   // and the query
	accept string   // default: anything
	header []string // further names and values, one after the other
	body   string

	cut   cutter // what the stream is cut with that is to answer it; nil: the answer is one
	stops bool   // the client reads the head of the stream, and then nothing more
}

// appendTo appends the request as HTTP/1.1 has it.
func (r *request) appendTo(b []byte, host string) []byte {
	b = append(b, r.method...)
	b = append(b, ' ')
	b = append(b, r.path...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, host...)
	b = append(b, "\r\nUser-Agent: "+userAgent+"\r\nAccept: "...)
	b = append(b, cmp.Or(r.accept, "*/*")...)
	b = append(b, "\r\n"...)
	for i := 0; i < len(r.header); i += 2 {
		b = append(b, r.header[i]...)
		b = append(b, ": "...)
		b = append(b, r.header[i+1]...)
		b = append(b, "\r\n"...)
	}
	if r.method == "POST" {
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, int64(len(r.body)), 10)
		b = append(b, "\r\n"...)
	}
	b = append(b, "\r\n"...)
	return append(b, r.body...)
}
