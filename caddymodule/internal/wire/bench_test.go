package wire

import (
	"testing"
	"time"
)

func BenchmarkAnswer(b *testing.B) {
	r := testResult(testMessage(7, "a", "1", "", ""))
	for _, style := range []Style{{Format: Text}, {Format: JSON}, {Format: Raw}} {
		b.Run(string(style.Format), func(b *testing.B) {
			b.ReportAllocs()
			keep := NewAnswer(style, 204, r, time.Second)
			for b.Loop() {
				keep = NewAnswer(style, 204, r, time.Second)
			}
			_ = keep
		})
	}
}

func BenchmarkPiece(b *testing.B) {
	r := testResult(testMessage(7, "a", "1", "", ""))
	b.ReportAllocs()
	keep := Style{Format: SSE}.Piece(r)
	for b.Loop() {
		keep = Style{Format: SSE}.Piece(r)
	}
	_ = keep
}
