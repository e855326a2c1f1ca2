<?php

// The page of all versions. The newest messages are in it; its script adds what comes later.

declare(strict_types=1);

require __DIR__ . '/guestbook.php';

$messages = newestMessages(50);

function show(array $message): void
{
    ?>
        <li>
          <p class="by"><b><?= html($message['name']) ?></b> <time datetime="<?= html($message['time']) ?>"><?= html($message['time']) ?></time></p>
          <p class="text"><?= html($message['text']) ?></p>
        </li>
<?php
}

header('Content-Type: text/html; charset=utf-8');
header('Cache-Control: no-store');
?>
<!DOCTYPE html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <meta name="color-scheme" content="light dark">
  <title>Guestbook</title>
  <link rel="icon" href="../shared/icon.svg">
  <link rel="stylesheet" href="../shared/style.css">
  <script type="module" src="follow.js"></script>
</head>
<body>
  <header>
    <h1>Guestbook</h1>
    <nav aria-label="Versions">
<?php foreach (['polling', 'holding', 'comet'] as $name): ?>
      <a href="../<?= $name ?>/"<?= $name === $version ? ' aria-current="page"' : '' ?>><?= $name ?></a>
<?php endforeach ?>
    </nav>
  </header>
  <main>
    <form action="post.php" method="post">
      <label>Your name <input name="name" required maxlength="40" autocomplete="nickname"></label>
      <label>Your message <textarea name="text" required maxlength="500" rows="3"></textarea></label>
      <button>Sign the guestbook</button>
      <p id="problem" role="alert"></p>
    </form>
    <p id="status" role="status"></p>
    <ol id="messages" aria-live="polite" data-last="<?= html($messages[0]['id'] ?? 0) ?>">
<?php array_map(show(...), $messages) ?>
    </ol>
    <template id="message">
<?php show(['name' => '', 'time' => '', 'text' => '']) ?>
    </template>
  </main>
</body>
</html>
