-- KEYS: four for each subject. ARGV: for each subject the number of settlements, then six arguments for each.
local at = 1
for index = 1, #KEYS / 4 do
  local key = open(index, settled_slots(at))
  read(key.quotas, settled_names(at))
  at = settle_all(key, at)
  save(key)
end
return redis.status_reply('OK')
