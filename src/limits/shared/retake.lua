-- Takes places again that were freed while their gateway was silent, over the limit if need be. KEYS: the running
-- requests of a subject. ARGV: its limit (-1: none), how many run, and their names. Returns how many are over it.

local SILENCE, SPAN = 10000000, 60000000
local call = redis.call
local now, limit, count, taken = clock(), tonumber(ARGV[1]), tonumber(ARGV[2]), {}
local latest = tonumber(call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]) or 0
if latest > now and latest <= now + SPAN then
  now = latest
end
for index = 3, count + 2 do
  taken[#taken + 1], taken[#taken + 2] = string.format('%d', now), ARGV[index]
end
call('ZADD', KEYS[1], unpack(taken))
-- Where it is kept for longer, it stays so.
if call('PTTL', KEYS[1]) < 70000 then
  call('PEXPIRE', KEYS[1], '70000')
end
if limit < 0 then
  return 0
end
local running = call('ZCOUNT', KEYS[1], string.format('(%d', now - SILENCE), '+inf')
return math.max(math.min(count, running - limit), 0)
