-- Keeps the places of a gateway's requests for another while. KEYS: the running requests of each subject.
-- ARGV: for each how many run, and their names. Returns the names that do not count any more.

local SILENCE, SPAN, KEEP = 10000000, 60000000, 70000
local call = redis.call
local clock_now, at, freed = clock(), 1, {}
for _, running in ipairs(KEYS) do
  local count, now = tonumber(ARGV[at]), clock_now
  -- The subject's present, as the windows have it: it never goes back, but for what is set back by more than they remember.
  local latest = tonumber(call('ZREVRANGE', running, 0, 0, 'WITHSCORES')[2]) or 0
  if latest > now and latest <= now + SPAN then
    now = latest
  end
  local scores = call('ZMSCORE', running, unpack(ARGV, at + 1, at + count))
  local kept, stamp = {}, string.format('%d', now)
  for index = 1, count do
    local name, score = ARGV[at + index], tonumber(scores[index] or 0)
    if score > now - SILENCE and score <= now then
      kept[#kept + 1], kept[#kept + 2] = stamp, name
    else
      freed[#freed + 1] = name
    end
  end
  if #kept > 0 then
    call('ZADD', running, unpack(kept))
    if call('PTTL', running) < KEEP then
      call('PEXPIRE', running, KEEP)
    end
  end
  at = at + 1 + count
end
return freed
