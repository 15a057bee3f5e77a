-- Says that a gateway is there, and returns how many were heard of lately. KEYS: their set. ARGV: the gateway.
local now, silence = clock(), 10000000
redis.call('ZADD', KEYS[1], string.format('%d', now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%d', now - silence))
redis.call('PEXPIRE', KEYS[1], '11000')
return redis.call('ZCARD', KEYS[1])
