-- What of each subject counts and runs. KEYS: four for each subject. ARGV: for each its quotas. Returns the subjects'
-- standings one after another, each followed by what is used of its quotas and how long until nothing is.
local at, reply = 1, {}
for index = 1, #KEYS / 4 do
  local key = open(index)
  at = open_quotas(key, at, {})
  bring_quotas(key)
  if key.is_known then
    save(key)
  end
  local requests_reset, tokens_reset = resets(key)
  for _, value in ipairs(standing(key, requests_reset, tokens_reset, count_running(key))) do
    reply[#reply + 1] = value
  end
  for _, quota in ipairs(key.limited) do
    local _, reset = waits_for_quota(key, quota, 0)
    reply[#reply + 1], reply[#reply + 2] = quota.used, reset
  end
end
return reply
