comet(['news'], function (message) {
	$('<li>').text(message.data).prependTo('#news');
}, function () {
	location.reload();
});
