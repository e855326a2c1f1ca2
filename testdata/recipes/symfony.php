<?php

use Symfony\Contracts\HttpClient\Exception\ExceptionInterface;

$this->entityManager->persist($message);
$this->entityManager->flush(); // commits

try {
    $this->httpClient->request('POST', 'http://127.0.0.1:2080/config', [
        'body' => ['id' => $message->getId()],
        'max_duration' => 1,
        'max_redirects' => 0,
    ])->getContent(); // waits, and throws when it was not published
} catch (ExceptionInterface $e) {
    $this->logger->warning('not published', ['exception' => $e]);
}
