create function comet_notify() returns trigger language plpgsql as $$
begin
	perform pg_notify('comet', json_build_object('id', new.id)::text);
	return null;
end
$$;

create trigger comet_notify after insert on messages
	for each row execute function comet_notify();
