import { follow, get } from '../shared/guestbook.js';

follow((last) => get(`/push?id=${last}`));
