<?php

require __DIR__ . '/../shared/guestbook.php';

$since = (int) ($_GET['since'] ?? 0);

answer(messagesSince($since));
