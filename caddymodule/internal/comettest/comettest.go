// Package comettest is the test harness of internal/comettest under a second path.
package comettest

import "github.com/caddy-comet/caddy-comet/internal/comettest"

// These are the same as in internal/comettest.
type (
	Server  = comettest.Server
	Option  = comettest.Option
	Request = comettest.Request
	Answer  = comettest.Answer
	Body    = comettest.Body
	Message = comettest.Message
	Field   = comettest.Field
	Result  = comettest.Result
)

// These are the same as in internal/comettest.
const (
	Deadline = comettest.Deadline
	FormType = comettest.FormType
	Race     = comettest.Race
)

// These are the same as in internal/comettest.
var (
	Main            = comettest.Main
	Binary          = comettest.Binary
	Root            = comettest.Root
	Run             = comettest.Run
	Adapt           = comettest.Adapt
	Validate        = comettest.Validate
	Env             = comettest.Env
	File            = comettest.File
	Global          = comettest.Global
	Start           = comettest.Start
	Eventually      = comettest.Eventually
	Publish         = comettest.Publish
	PublishAs       = comettest.PublishAs
	Push            = comettest.Push
	Hold            = comettest.Hold
	HoldRequest     = comettest.HoldRequest
	HoldOn          = comettest.HoldOn
	Await           = comettest.Await
	Subscribers     = comettest.Subscribers
	WaitSubscribers = comettest.WaitSubscribers
)
