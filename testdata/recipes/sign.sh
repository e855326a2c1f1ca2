field=inbox/42
until=$(($(date +%s) + 3600))
sig=$(printf '%s\n%s' "$field" "$until" | openssl dgst -sha256 -hmac "$COMET_KEY" | sed 's/.* //')
echo "/push?field=$field&until=$until&sig=$sig"
