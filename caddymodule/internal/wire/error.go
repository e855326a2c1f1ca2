package wire

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// Error is the answer to a request that asks for what it cannot be given.
type Error struct {
	Status int    // 4xx, or 507
	Detail string // one line: what was wrong and what to do
}

// Error returns the line that the client is told.
func (e *Error) Error() string { return e.Detail }

// Errorf returns an answer with that status and line.
func Errorf(status int, format string, args ...any) *Error {
	return &Error{Status: status, Detail: fmt.Sprintf(format, args...)}
}

func badRequest(format string, args ...any) *Error {
	return Errorf(http.StatusBadRequest, format, args...)
}

// Body returns the body of the answer and its Content-Type: one line of text, or
// problem details (RFC 9457).
func (e *Error) Body(asJSON bool) (contentType string, body []byte) {
	if !asJSON {
		return TextType, []byte(e.Detail + "\n")
	}
	body, _ = json.Marshal(struct { // strings and a number: cannot fail
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}{http.StatusText(e.Status), e.Status, e.Detail})
	return "application/problem+json", append(body, '\n')
}
