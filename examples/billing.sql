-- A MySQL or MariaDB database that is ready to be captured; choose the role's password before you run it.
CREATE DATABASE billing;
CREATE TABLE billing.customers (
    id bigint AUTO_INCREMENT PRIMARY KEY,
    name varchar(100) NOT NULL,
    vat_id varchar(20)
);
CREATE TABLE billing.invoices (
    id bigint AUTO_INCREMENT PRIMARY KEY,
    customer_id bigint NOT NULL,
    total decimal(10, 2) NOT NULL,
    status enum('open', 'paid') NOT NULL DEFAULT 'open',
    issued_at datetime(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)
);
INSERT INTO billing.customers (name, vat_id) VALUES ('Ada Ltd', 'GB1'), ('Grace Inc', NULL);
INSERT INTO billing.invoices (customer_id, total) VALUES (1, 99.50), (2, 10);

CREATE USER IF NOT EXISTS cdc IDENTIFIED BY 'choose one';
GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO cdc;
GRANT SELECT ON billing.* TO cdc;
