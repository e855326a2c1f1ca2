#!/bin/sh
# Publishes what PostgreSQL notifies, for ever. The arguments are those of psql: dbname=shop
export LC_ALL=C
while :; do
	{
		echo "listen comet;"
		echo "select json_build_object('id', max(id)) from messages having count(*) > 0;"
		while sleep 0.2 && echo ';'; do :; done
	} | psql -XqAt "$@" |
		sed -un 's/^Asynchronous notification "comet" with payload "\(.*\)" received .*/\1/; /^{/p' |
		while read -r values; do
			curl -fsS -o /dev/null --max-time 60 --retry 30 --retry-delay 1 --retry-connrefused \
				-H 'Content-Type: application/json' -d "$values" "${COMET_DOOR:-http://127.0.0.1:2080/config}"
		done
	sleep 1
done
