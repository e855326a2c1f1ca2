<?php

require __DIR__ . '/../shared/guestbook.php';

$id = addMessage(...formMessage());

answer(['id' => $id]);
