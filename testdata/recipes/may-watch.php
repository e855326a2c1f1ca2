<?php

if (isset($_COOKIE[session_name()])) { // else it would begin a session for everybody who asks
    session_start(['read_and_close' => true]); // no other request of the session waits for it
}
if (!isset($_SESSION['user'])) {
    http_response_code(401);
    exit("Log in first.\n");
}
header('Comet-Fields: inbox/' . rawurlencode($_SESSION['user']));
