package wire

import (
	"mime"
	"slices"
	"strconv"
	"strings"
)

// TextType is the Content-Type of all that is written as text.
const TextType = "text/plain; charset=utf-8"

// maxAccept is how many entries of an Accept header are looked at. Browsers send
// ten at most.
const maxAccept = 64

// negotiate returns which of the offered media types an Accept header prefers,
// -1 when none. The most preferred exact type counts; "*/*" and "text/html",
// which every browser sends, mean the first offer, and so does no header.
func negotiate(accept []string, offers []string) int {
	type choice struct {
		mediaType string
		quality   float64
	}
	var choices []choice
	for part := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		mediaType, params, _ := strings.Cut(part, ";")
		mediaType = strings.ToLower(strings.TrimSpace(mediaType))
		if mediaType == "" {
			continue
		}
		if len(choices) == maxAccept {
			break
		}
		quality := 1.0
		for param := range strings.SplitSeq(params, ";") {
			name, value, _ := strings.Cut(param, "=")
			if strings.EqualFold(strings.TrimSpace(name), "q") {
				q, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
				if err != nil || !(q >= 0) {
					q = 0
				}
				quality = min(q, 1)
			}
		}
		choices = append(choices, choice{mediaType, quality})
	}
	if len(choices) == 0 {
		return 0
	}
	slices.SortStableFunc(choices, func(a, b choice) int {
		switch {
		case a.quality > b.quality:
			return -1
		case a.quality < b.quality:
			return 1
		}
		return 0
	})
	refused := func(offer string) bool {
		return slices.Contains(choices, choice{offer, 0})
	}
	for _, c := range choices {
		if c.quality == 0 {
			continue
		}
		if i := slices.Index(offers, c.mediaType); i >= 0 {
			return i
		}
		prefix, isRange := strings.CutSuffix(c.mediaType, "*")
		switch {
		case c.mediaType == "*/*" || c.mediaType == "text/html":
			prefix, isRange = "", true
		case isRange && !strings.HasSuffix(prefix, "/"):
			isRange = false
		}
		if isRange {
			i := slices.IndexFunc(offers, func(offer string) bool {
				return strings.HasPrefix(offer, prefix) && !refused(offer)
			})
			if i >= 0 {
				return i
			}
		}
	}
	return -1
}

// WantsJSON reports whether an Accept header prefers JSON to text.
func WantsJSON(accept []string) bool {
	return negotiate(accept, []string{"text/plain", "application/json"}) == 1
}

// mediaType returns the type of a Content-Type without its parameters, empty
// when it cannot be read.
func mediaType(contentType string) string {
	t, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return ""
	}
	return t
}

func isJSON(mediaType string) bool {
	return mediaType == "application/json" ||
		strings.HasPrefix(mediaType, "application/") && strings.HasSuffix(mediaType, "+json")
}
