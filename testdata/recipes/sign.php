<?php
$field = 'inbox/42'; // of whoever is logged in
$until = time() + 3600;
$sig = hash_hmac('sha256', "$field\n$until", getenv('COMET_KEY'));
echo '/push?', http_build_query(['field' => $field, 'until' => $until, 'sig' => $sig]), "\n";
