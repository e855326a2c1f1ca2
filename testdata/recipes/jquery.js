// comet calls show with each message of the fields, the latest of each first, for ever.
// After a gap it calls missed before: ask the application for what there is now.
function comet(fields, show, missed) {
	var after = '', retry = 2000;
	(function next() {
		$.ajax({
			url: '/push',
			data: { format: 'json', field: fields, after: after },
			traditional: true, // field=a&field=b
			dataType: 'json',
			timeout: 150000
		}).done(function (answer) {
			after = answer.cursor;
			retry = answer.retry;
			setTimeout(next); // also when show fails: then after the message that it failed with
			if (answer.missed && missed) missed(answer.missed_fields);
			$.each(answer.messages, function (i, message) { after = message.cursor; show(message); });
			after = answer.cursor;
		}).fail(function () {
			setTimeout(next, retry * (0.5 + Math.random()));
		});
	})();
}
