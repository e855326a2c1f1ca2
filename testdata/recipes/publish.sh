curl -fsS -d id=123 http://127.0.0.1:2080/config
