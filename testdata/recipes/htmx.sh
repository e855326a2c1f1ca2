curl -fsS --data-binary '<li>Hello</li>' -H 'Content-Type: text/plain' 'http://127.0.0.1:2080/config?field=news&event=added'
