-- SPDX-License-Identifier: MIT
-- Tables, indexes, joins, text and blobs in memory; what it prints depends on all of them.
CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT, price REAL, note BLOB);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)
INSERT INTO item SELECT i, 'item ' || (i * 7919 % 30011), i * 0.25, zeroblob(i % 400) FROM n;
CREATE INDEX item_name ON item(name);
CREATE TABLE sale(item INTEGER, day INTEGER, amount INTEGER);
INSERT INTO sale SELECT id * 31 % 30000 + 1, id % 365, id % 13 FROM item;
SELECT count(*), sum(length(note)), min(name), max(name) FROM item;
SELECT day, sum(amount * price) FROM sale JOIN item ON item.id = sale.item GROUP BY day ORDER BY 2 DESC LIMIT 5;
UPDATE item SET name = upper(name) || '!' WHERE id % 3 = 0;
SELECT count(*) FROM item WHERE name LIKE 'ITEM 1%!';
DELETE FROM item WHERE id % 5 = 0;
SELECT group_concat(name, '/') FROM (SELECT name FROM item ORDER BY name LIMIT 8);
SELECT count(*), total(length(hex(note))) FROM item;
SELECT length(group_concat(name)) FROM item;
PRAGMA integrity_check;
