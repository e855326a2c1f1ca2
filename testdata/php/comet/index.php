<?php

$version = basename(__DIR__);
require __DIR__ . '/../shared/page.php';
