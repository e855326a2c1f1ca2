import { follow } from '../shared/guestbook.js';

follow(() => {}); // list.php does the waiting
