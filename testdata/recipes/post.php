<?php

require __DIR__ . '/comet.php';

$db = new PDO(getenv('DATABASE') ?: 'sqlite:messages.sqlite');
$db->beginTransaction();
$db->prepare('INSERT INTO messages (text) VALUES (?)')->execute([$_POST['text']]);
$id = $db->lastInsertId();
$db->commit();

comet_publish(['id' => $id]);
