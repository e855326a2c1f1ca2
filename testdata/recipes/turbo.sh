curl -fsS --data-binary @- -H 'Content-Type: text/plain' 'http://127.0.0.1:2080/config?field=messages' <<'HTML'
<turbo-stream action="append" target="messages"><template><li>Hello</li></template></turbo-stream>
HTML
