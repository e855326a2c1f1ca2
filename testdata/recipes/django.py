from urllib.parse import urlencode
from urllib.request import urlopen

from django.db import transaction


def publish(**values):
    urlopen("http://127.0.0.1:2080/config", urlencode(values).encode(), timeout=1).close()


# At once when there is no transaction. robust (Django 4.2): a failure is logged, not raised.
transaction.on_commit(lambda: publish(id=message.id), robust=True)
