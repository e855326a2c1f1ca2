<?php

// The guestbook: what its three versions share.

declare(strict_types=1);

header("Content-Security-Policy: default-src 'self'");
header('X-Content-Type-Options: nosniff');

/** The database, made on the first request. */
function db(): PDO
{
    static $db = null;
    if ($db !== null) {
        return $db;
    }
    $version = basename(dirname($_SERVER['SCRIPT_FILENAME']));
    $file = getenv('GUESTBOOK_DB') ?: sys_get_temp_dir() . "/guestbook-$version.sqlite";
    $db = new PDO("sqlite:$file", options: [PDO::ATTR_TIMEOUT => 5]);
    if ((int) $db->query('PRAGMA user_version')->fetchColumn() === 0) {
        $db->exec('PRAGMA journal_mode = WAL'); // kept in the file
        $db->exec(<<<'SQL'
            BEGIN IMMEDIATE;
            CREATE TABLE IF NOT EXISTS messages (
                id   INTEGER PRIMARY KEY AUTOINCREMENT,
                time TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
                name TEXT NOT NULL,
                text TEXT NOT NULL
            );
            PRAGMA user_version = 1;
            COMMIT;
            SQL);
    }
    return $db;
}

/** @return list<array{id: int, time: string, name: string, text: string}> the messages after this one, oldest first */
function messagesSince(int $id): array
{
    $select = db()->prepare('SELECT id, time, name, text FROM messages WHERE id > ? ORDER BY id LIMIT 100');
    $select->execute([$id]);
    return $select->fetchAll(PDO::FETCH_ASSOC);
}

/** @return list<array{id: int, time: string, name: string, text: string}> newest first */
function newestMessages(int $count): array
{
    $select = db()->prepare('SELECT id, time, name, text FROM messages ORDER BY id DESC LIMIT ?');
    $select->execute([$count]);
    return $select->fetchAll(PDO::FETCH_ASSOC);
}

/** The id of the newest message, 0 when there is none. */
function newestId(): int
{
    return (int) db()->query('SELECT max(id) FROM messages')->fetchColumn();
}

/** Stores a message, committed when this returns, and gives its id. */
function addMessage(string $name, string $text): int
{
    db()->prepare('INSERT INTO messages (name, text) VALUES (?, ?)')->execute([$name, $text]);
    return (int) db()->lastInsertId();
}

/** What the form sent: a name and a text. Anything else is answered here. */
function formMessage(): array
{
    if ($_SERVER['REQUEST_METHOD'] !== 'POST') {
        header('Allow: POST');
        answer(['error' => 'Send the form with POST.'], 405);
    }
    return [
        formField('name', 40, 'Please give a name of up to 40 characters.'),
        formField('text', 500, 'Please write a message of up to 500 characters.'),
    ];
}

function formField(string $field, int $max, string $problem): string
{
    $value = $_POST[$field] ?? '';
    $value = is_string($value) ? trim(str_replace("\r\n", "\n", $value)) : '';
    if (!preg_match("/^.{1,$max}$/Dsu", $value)) { // u: not UTF-8, no match
        answer(['error' => $problem], 422);
    }
    return $value;
}

/** Answers with JSON, or sends a browser without JavaScript back to the page, and ends. */
function answer(array $body, int $status = 200): never
{
    if ($status === 200 && str_contains($_SERVER['HTTP_ACCEPT'] ?? '', 'text/html')) {
        header('Location: ./', true, 303);
        exit;
    }
    http_response_code($status);
    header('Content-Type: application/json');
    header('Cache-Control: no-store');
    exit(json_encode($body, JSON_THROW_ON_ERROR | JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE));
}

/** Text made safe for HTML. */
function html(string|int $text): string
{
    return htmlspecialchars((string) $text, ENT_QUOTES | ENT_SUBSTITUTE | ENT_HTML5, 'UTF-8');
}
