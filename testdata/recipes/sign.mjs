import { createHmac } from 'node:crypto';

const field = 'inbox/42';
const until = Math.floor(Date.now() / 1000) + 3600;
const sig = createHmac('sha256', process.env.COMET_KEY).update(`${field}\n${until}`).digest('hex');
console.log('/push?' + new URLSearchParams({ field, until, sig }));
