<?php

require __DIR__ . '/../shared/guestbook.php';

$id = addMessage(...formMessage());

// It is committed: tell the browsers. Once more when another came meanwhile, so that the newest has the last word.
$curl = curl_init(getenv('GUESTBOOK_DOOR') ?: 'http://127.0.0.1:2080/config');
do {
    $newest = newestId();
    curl_setopt_array($curl, [CURLOPT_POSTFIELDS => "id=$newest", CURLOPT_RETURNTRANSFER => true, CURLOPT_TIMEOUT => 1]);
    $told = curl_exec($curl);
} while ($told === "OK\n" && newestId() > $newest);
if ($told !== "OK\n") {
    error_log('guestbook: not published: ' . ($told ?: curl_error($curl)));
}

answer(['id' => $id]);
