-- Takes places again that were freed while their gateway was silent, over the limit if need be. KEYS: the running
-- requests of a key. ARGV: the key's limit (-1: none), how many run, and their names. Returns how many are over it.

local now, limit, count, taken = clock(), tonumber(ARGV[1]), tonumber(ARGV[2]), 0
for index = 3, count + 2 do
  taken = taken + redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[index])
end
redis.call('PEXPIRE', KEYS[1], '11000')
if limit < 0 then
  return 0
end
local running = redis.call('ZCOUNT', KEYS[1], string.format('(%.0f', now - 10000000), '+inf')
return math.max(math.min(taken, running - limit), 0)
