<?php

// wp-content/mu-plugins/comet.php
add_action('wp_insert_comment', function ($id, $comment) {
    if ($comment->comment_approved === '1') {
        $values = ["post/$comment->comment_post_ID" => $id];
        wp_remote_post('http://127.0.0.1:2080/config', ['body' => $values, 'timeout' => 1, 'redirection' => 0]);
    }
}, 10, 2);
