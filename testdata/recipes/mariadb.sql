create table comet_outbox (
	n bigint unsigned auto_increment primary key,
	field varchar(255) not null,
	data text not null
);

create trigger comet_outbox after insert on messages
	for each row insert into comet_outbox (field, data) values ('id', new.id);
