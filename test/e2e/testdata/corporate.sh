# corporate.sh: a root, and below it what is to sign, as a PKI department hands them out.
cat >ca.cnf <<-CONF
	[req]
	distinguished_name = dn
	[dn]
	[root]
	basicConstraints = critical, CA:true
	keyUsage = critical, keyCertSign, cRLSign
	subjectKeyIdentifier = hash
	[signer]
	basicConstraints = critical, CA:true, pathlen:0
	keyUsage = critical, keyCertSign, cRLSign
	subjectKeyIdentifier = hash
	authorityKeyIdentifier = keyid
CONF
openssl req -x509 -config ca.cnf -extensions root -newkey rsa:2048 -nodes -days 3650 -subj '/O=Example/CN=Example Root' -keyout root-key.pem -out root-cert.pem
openssl req -new -config ca.cnf -newkey rsa:2048 -nodes -subj '/O=Example/CN=Mesh' -keyout ca-key.pem -out ca.csr
openssl x509 -req -in ca.csr -extfile ca.cnf -extensions signer -CA root-cert.pem -CAkey root-key.pem -CAcreateserial -days 730 -out ca-cert.pem
cp ca-cert.pem cert-chain.pem
