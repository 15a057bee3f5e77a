-- KEYS: three for each key. ARGV: for each key the number of settlements, then six arguments for each.
local at = 1
for first = 1, #KEYS, 3 do
  local key = open(KEYS[first], KEYS[first + 1], KEYS[first + 2])
  at = settle_all(key, at)
  save(key)
end
return redis.status_reply('OK')
