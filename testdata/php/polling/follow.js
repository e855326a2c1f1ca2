import { follow, sleep } from '../shared/guestbook.js';

follow(() => sleep(1000));
