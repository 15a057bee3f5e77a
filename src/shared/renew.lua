-- Keeps the places of a gateway's requests for another while. KEYS: the running requests of each key.
-- ARGV: for each key how many run, and their names. Returns the names that were freed meanwhile.

local stamp, at, freed = string.format('%.0f', clock()), 1, {}
for _, running in ipairs(KEYS) do
  local count = tonumber(ARGV[at])
  local scores = redis.call('ZMSCORE', running, unpack(ARGV, at + 1, at + count))
  for index = 1, count do
    if scores[index] then
      redis.call('ZADD', running, stamp, ARGV[at + index])
    else
      freed[#freed + 1] = ARGV[at + index]
    end
  end
  redis.call('PEXPIRE', running, '11000')
  at = at + 1 + count
end
return freed
