<!doctype html>
<meta charset="utf-8">
<ul id="messages">
<?php foreach ((new PDO(getenv('DATABASE')))->query('SELECT id, text FROM messages ORDER BY id') as $message): ?>
	<li id="message-<?= $message['id'] ?>"><?= htmlspecialchars($message['text']) ?></li>
<?php endforeach ?>
</ul>
<script src="/comet.js"></script>
<script>
	new Comet('/push', { after: <?= json_encode($_SERVER['HTTP_COMET_CURSOR'] ?? '') ?> }).watch('messages', ({ id, text }) => {
		if (document.getElementById(`message-${id}`)) return;
		const item = Object.assign(document.createElement('li'), { id: `message-${id}`, textContent: text });
		document.querySelector('#messages').append(item);
	});
</script>
