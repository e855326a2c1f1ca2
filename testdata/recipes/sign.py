import hashlib, hmac, os, time
from urllib.parse import urlencode

field = "inbox/42"
until = int(time.time()) + 3600
sig = hmac.new(os.environ["COMET_KEY"].encode(), f"{field}\n{until}".encode(), hashlib.sha256).hexdigest()
print("/push?" + urlencode({"field": field, "until": until, "sig": sig}))
