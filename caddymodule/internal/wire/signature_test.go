package wire

import "testing"

// The signatures were made by
//
//	printf 'inbox/42\n1795338000' | openssl dgst -sha256 -hmac 0123456789abcdef
func TestASignatureIsOfTheFieldsAndTheTime(t *testing.T) {
	const (
		key  = "0123456789abcdef"
		one  = "7b2f940327b9befa66058e6b34820f1ad9623a7e2ae4c80fb7ea79a069fae815"
		both = "9fc345d97e8adfbe26a44600ba388228360e2905e6554c0d87ac416099277f07"
	)
	for _, test := range []struct {
		query string
		fails bool
		is    bool
	}{
		{"field=inbox/42&until=1795338000&sig=" + one, false, true},
		{"sig=" + one + "&until=1795338000&format=sse&field=inbox%2f42", false, true},
		{"field=&field=inbox/42&until=1795338000&sig=" + one, false, true},
		{"field=inbox/42&field=news&until=1795338000&sig=" + both, false, true},
		{"field=news&field=inbox/42&until=1795338000&sig=" + both, false, false},
		{"field=inbox/42%0anews&until=1795338000&sig=" + both, false, true}, // but that is no name
		{"field=inbox/43&until=1795338000&sig=" + one, false, false},
		{"field=inbox/42&until=1795338001&sig=" + one, false, false},
		{"field=inbox/42&until=01795338000&sig=" + one, false, false},
		{"field=inbox/42&field=inbox/42&until=1795338000&sig=" + one, false, false},
		{"until=1795338000&sig=" + one, true, false},
		{"inbox/42=1&until=1795338000&sig=" + one, true, false},
		{"field=inbox/42&sig=" + one, true, false},
		{"field=inbox/42&until=never&sig=" + one, true, false},
		{"field=inbox/42&until=-1&sig=" + one, true, false},
		{"field=inbox/42&until=1795338000", true, false},
		{"field=inbox/42&until=1795338000&sig=" + one[:62], true, false},
		{"field=inbox/42&until=1795338000&sig=" + one[:63] + "g", true, false},
	} {
		s, err := ReadSignature(test.query)
		if test.fails != (err != nil) {
			t.Errorf("%s: %v", test.query, err)
		}
		if err == nil && (s.IsBy(key) != test.is || s.IsBy("another key") || s.Until.Unix()/10 != 179533800) {
			t.Errorf("%s: it is by the key: %v, until %v", test.query, s.IsBy(key), s.Until)
		}
	}
}
