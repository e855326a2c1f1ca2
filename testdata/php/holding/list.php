<?php

require __DIR__ . '/../shared/guestbook.php';

$since = (int) ($_GET['since'] ?? 0);
$until = time() + 25;
while (!messagesSince($since) && time() < $until) {
    usleep(200_000);
}

answer(messagesSince($since));
