-- What of a key counts and runs. KEYS: the three of the key.
local key = open(KEYS[1], KEYS[2], KEYS[3])
if key.is_known then
  save(key)
end
local requests_reset, tokens_reset = resets(key)
return standing(key, requests_reset, tokens_reset, count_running(key))
